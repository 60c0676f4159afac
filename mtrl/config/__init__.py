"""Run configurations: classes by name, their settings, YAML."""
