def record_human(*a, **k):
    return True
