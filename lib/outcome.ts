import { FST_BGT_INVALID_TASK_OPTION } from './errors'
import { isThenable } from './executor'
import { received } from './received'

/** How a request ended, as a `runOn` predicate sees it. */
export interface Outcome {
  /** The status of the reply; the one it would have had where the client left before it was sent. */
  readonly statusCode: number
  /** What reached `onError`, the first if there were several; else `null`. */
  readonly error: Error | null
  /**
   * The client left, or a stream broke, before the response was complete. One that was complete and waited in Node's
   * buffers counts as sent, as it does for Node and for the onResponse hook.
   */
  readonly aborted: boolean
}

/** See `TaskOptions.runOn`. */
export type RunOn = 'success' | 'failure' | 'always' | ((outcome: Outcome) => boolean)

/** Whether the outcome of its request lets a task run. Only the predicate, which is the user's, may throw. */
export function runsOn (runOn: RunOn, outcome: Outcome, beforeError: boolean): boolean {
  switch (runOn) {
    case 'success': return !beforeError
    case 'failure': return outcome.error !== null
    case 'always': return true
    default: {
      const runs: unknown = runOn(outcome)
      if (!isThenable(runs)) return Boolean(runs)
      // A promise is always true; what it rejects with must not end the process.
      runs.then(undefined, () => {})
      throw new FST_BGT_INVALID_TASK_OPTION('runOn', 'a predicate that is not async', received(runs))
    }
  }
}
