"""What measuring returns. Additive: parts may be measured anywhere, in any order, and added."""
