"""What a team meets after the first green run: diagnosis, rollback, versions, handing over, cleaning, faults."""
