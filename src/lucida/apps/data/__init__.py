"""Looking at data: what a source or a recipe's mixture holds, counted and checked."""
