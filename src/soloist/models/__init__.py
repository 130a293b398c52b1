"""Models: what is known of them before they are loaded, and how they get into host memory."""
