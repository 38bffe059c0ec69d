"""What every daemon needs: components and their supervisor, the SQLite writer, settings, local HTTP, logging."""
