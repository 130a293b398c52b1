"""What a run will take, told before it: time, memory, disk and lengths."""
