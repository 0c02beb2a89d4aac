/** `; did you mean 'x'?` for a mistyped name; an empty text if no name is close: at most two edits, and fewer than half of its letters. */
export function didYouMean (name: string, names: readonly string[]): string {
  const [nearest] = names.map(other => ({ other, edits: distance(name, other) })).sort((a, b) => a.edits - b.edits)
  return nearest !== undefined && nearest.edits <= 2 && nearest.edits * 2 < nearest.other.length ? `; did you mean '${nearest.other}'?` : ''
}

/** Levenshtein's distance, without regard to case: insertions, deletions and replacements of single letters. */
function distance (a: string, b: string): number {
  if (Math.abs(a.length - b.length) > 2) return Infinity
  let row = Array.from({ length: b.length + 1 }, (_, index) => index)
  for (const [i, letter] of [...a.toLowerCase()].entries()) {
    const above = row
    row = [i + 1]
    for (const [j, other] of [...b.toLowerCase()].entries()) {
      row.push(Math.min(above[j + 1]! + 1, row[j]! + 1, above[j]! + (letter === other ? 0 : 1)))
    }
  }
  return row[b.length]!
}
