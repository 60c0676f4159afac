"""The operations behind the command line and `import mtrl`: one path for both."""
