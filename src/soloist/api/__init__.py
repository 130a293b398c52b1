"""What `import soloist` offers beyond values: commands as functions that show their progress and give results.

Above every layer except the command line. A function here turns its arguments into a config, makes one call, and shows
progress during that call. It computes nothing.
"""

import soloist.reports.html  # noqa: F401  # with it, results have their HTML forms
