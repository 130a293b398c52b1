"""Where a pass is computed: in this process, or in one of its own."""
