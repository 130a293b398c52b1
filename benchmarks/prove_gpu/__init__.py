"""What only a GPU can show of soloist, in one command of less than ten minutes. See `__main__`."""
