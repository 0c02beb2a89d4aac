'use strict'

/** The value below which the given share of the samples lies, interpolated. */
function quantile (samples, share) {
  const sorted = Float64Array.from(samples).sort()
  const at = (sorted.length - 1) * share
  const low = Math.floor(at)
  const high = Math.ceil(at)
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low)
}

/** Median, quartiles, and the number of samples. */
function summarize (samples) {
  return { median: quantile(samples, 0.5), q1: quantile(samples, 0.25), q3: quantile(samples, 0.75), samples: samples.length }
}

module.exports = { quantile, summarize }
