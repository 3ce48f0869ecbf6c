"""The miniature world: drawn scenes with exact ground truth, in pure Python and Pillow."""
