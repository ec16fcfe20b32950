def fuse(m): return 0
def unfuse(m): pass
