"""The verbs of `mtrl`, one file each, imported when the verb is called."""
