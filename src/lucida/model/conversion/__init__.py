"""Between Lucida's layout of weights and those of other programs: key maps and what fits."""
