class Results:
    def __init__(self, rounds): self.rounds=rounds; self.v={}
    def add(self,row,entrant,value): self.v.setdefault(row,{}).setdefault(entrant,[]).append(value)
def publish(r,readme):
    import statistics
    for row,e in r.v.items(): print(row, {k: round(statistics.median(v),2) for k,v in e.items()})
