"""Programs that are copied beside an export and run without this package."""
