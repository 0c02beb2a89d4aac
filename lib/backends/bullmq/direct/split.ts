import type { JobJson } from 'bullmq'
import type { JobWriter } from '../job-writer'

type Add = JobWriter['add']

/** Gives batches to one of two writers, and puts their results together in the order of the batches. */
export async function addSplit (batches: JobJson[][], isDirect: (job: JobJson) => boolean, direct: Add, plain: Add): Promise<Array<string[] | Error>> {
  const kinds = batches.map(batch => batch.every(isDirect))
  const add = async (kind: boolean, add: Add) => {
    const own = batches.filter((_batch, index) => kinds[index] === kind)
    return own.length === 0 ? [] : add(own)
  }
  const [ofDirect, ofPlain] = await Promise.all([add(true, direct), add(false, plain)])
  return kinds.map(kind => (kind ? ofDirect : ofPlain).shift()!)
}
