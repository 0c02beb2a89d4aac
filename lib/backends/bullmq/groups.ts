import type { JobJson } from 'bullmq'

/** How much is stored together, unless one batch alone has more. */
export interface GroupLimits {
  jobs: number
  /** Characters of data. */
  chars: number
}

/** Batches that are stored together, in their order. */
export function grouped (batches: JobJson[][], limits: GroupLimits): JobJson[][][] {
  const groups: JobJson[][][] = []
  let jobs = Infinity
  let chars = Infinity
  for (const batch of batches) {
    const more = batch.reduce((sum, { data }) => sum + data.length, 0)
    if (jobs + batch.length > limits.jobs || chars + more > limits.chars) {
      groups.push([])
      jobs = chars = 0
    }
    jobs += batch.length
    chars += more
    groups.at(-1)!.push(batch)
  }
  return groups
}
