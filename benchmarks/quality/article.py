"""The tables that the article printed: Smirnov, Rachkov 2025."""

COLUMNS = ("Base", "CorpLM", "FuncLM", "DefaultAVG", "SDM-W Linear", "SDM-W Square")
# its metric: (which of our sets stands for it, its numbers by column)
METRICS = {
    "FuncEval": ("func", (0.9695, 0.8670, 0.9949, 0.9838, 0.9838, 0.9698)),
    "CorpEval": ("corp", (0.6907, 0.9770, 0.7596, 0.9581, 0.9580, 0.9655)),
    "MMLU": ("words", (0.7313, 0.7299, 0.7311, 0.7340, 0.7340, 0.7336)),
    "HumanEval": ("code", (0.7134, 0.7012, 0.7283, 0.7256, 0.7073, 0.7317)),
    "RuBQ": ("facts", (0.5635, 0.5590, 0.5827, 0.5911, 0.5858, 0.5865)),
    "Winogrande": ("agreement", (0.7795, 0.7811, 0.7795, 0.7851, 0.7851, 0.7875)),
    "MATH": ("sums", (0.6394, 0.6214, 0.6308, 0.6362, 0.6364, 0.6370)),
}
PRINTED_AVERAGES = (0.7268, 0.7481, 0.7438, 0.7677, 0.7700, 0.7730)
"""The row "total average" as it was printed; not all of it is the mean of its column."""
WEIGHTS = {"Linear": 0.55, "Square": 0.75}
"""CorpLM's weight; FunctionLM has the rest."""
