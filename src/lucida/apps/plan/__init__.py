"""What a recipe will cost, before anything is downloaded or trained."""
