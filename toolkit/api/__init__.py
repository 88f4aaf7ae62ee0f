"""The public API: the objects and functions that `import toolkit` offers."""
