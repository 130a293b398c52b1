"""What is measured on a sample of the run's own chunks."""
