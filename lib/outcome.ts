/** How a request ended, as a `runOn` predicate sees it. */
export interface Outcome {
  /** The status of the reply; the one it would have had where the client left before it was sent. */
  readonly statusCode: number
  /** What reached `onError`, the first if there were several; else `null`. */
  readonly error: Error | null
  /** The client left, or the connection broke, before the whole response had gone out. */
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
