"""The miniature world: procedurally drawn scenes with exact ground truth. Pure Python and Pillow."""
