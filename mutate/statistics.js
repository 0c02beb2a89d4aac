'use strict'

/** Numbers from 0 to 1 that a seed decides (mulberry32). */
exports.randomOf = seed => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6D2B79F5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** A copy in an order that a seed decides. */
exports.shuffled = (list, seed) => {
  const random = exports.randomOf(seed)
  const result = [...list]
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [result[i], result[j]] = [result[j], result[i]]
  }
  return result
}

/** Wilson's interval, at 95 %, of a share: its bounds. */
exports.wilson = (hits, total) => {
  if (total === 0) return [0, 1]
  const z = 1.96
  const share = hits / total
  const centre = share + z * z / (2 * total)
  const margin = z * Math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
  const scale = 1 + z * z / total
  return [(centre - margin) / scale, (centre + margin) / scale].map(bound => Math.min(1, Math.max(0, bound)))
}
