"""Whether a process that left its number behind, in a file's name or in a lock, still runs."""

# Seconds. The system knows the start of a process by a boot time in whole seconds, which
# corrections of the clock move.
START_SLACK_S = 5.0


def alive(pid: int, by: float | None = None) -> bool:
    """Whether a process runs; one that is dead and not yet collected does not.

    Args:
        pid: its number, which the system may since have given to another one.
        by: seconds since the epoch; a process that began after it is another one.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        if by is None:
            return True
        began: float = process.create_time()
        return began <= by + START_SLACK_S
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        # It belongs to another user, and it is there.
        return True
