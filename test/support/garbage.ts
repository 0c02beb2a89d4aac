import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')

/** Collects what is garbage, at once. */
export const gc: () => void = runInNewContext('gc')
