"""interrelation."""
