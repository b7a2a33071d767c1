import pytest

from sdmw.errors import UsageError
from sdmw.sizes import parse_size, shown


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (1, 1),
        (5_000_000_000, 5 * 10**9),
        ("17", 17),
        ("5GB", 5 * 10**9),
        ("5G", 5 * 10**9),
        ("5M", 5 * 10**6),
        ("800k", 800_000),
        ("1T", 10**12),
        ("5B", 5 * 10**9),
        ("0.5b", 500_000_000),
        ("5 GB", 5 * 10**9),
        (" 5gb ", 5 * 10**9),
        ("1.5GB", 1_500_000_000),
        ("5GiB", 5 * 2**30),
        ("512MiB", 512 * 2**20),
        ("200MB", 200 * 10**6),
        ("3KB", 3000),
        ("3KiB", 3072),
        ("2TB", 2 * 10**12),
        ("2TiB", 2 * 2**40),
        ("9223372036854775807", 2**63 - 1),
    ],
)
def test_a_size_is_bytes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "GB", "-1", "0", 0, -5, "0GB", "1.5", "5GBs", "1e9", "٣", "nan", "5 000", "9" * 5000, "9999999TB", True,
     5.0, None, "1.0000000000000000000000000GB", "0.0001KB"],
)  # fmt: skip
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="size: expected"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (999, "999 bytes"),
        (1000, "1.00 KB"),
        (9_994, "9.99 KB"),
        (9_996, "10.0 KB"),
        (99_960, "100 KB"),
        (999_499, "999 KB"),
        (999_999, "1.00 MB"),
        (4_980_000_000, "4.98 GB"),
        (810 * 10**9, "810 GB"),
        (1234 * 10**12, "1234 TB"),
    ],
)
def test_a_size_is_shown_with_three_digits(size, text):
    assert shown(size) == text
