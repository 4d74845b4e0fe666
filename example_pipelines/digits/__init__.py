"""A digit classifier in seven versions, and three statements asked of all of them."""
