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
    default: return Boolean(runOn(outcome))
  }
}
