import type { FastifyReply, FastifyRequest } from 'fastify'
import type { BackgroundTasksOptions } from '../../types/options'
import type { Outcome, RunOn } from '../../types/task'
import { FST_BGT_INVALID_OPTION, FST_BGT_INVALID_TASK_OPTION } from '../shared/errors'
import { isThenable } from '../shared/promises'
import { received } from '../shared/show'

/** Whether the request's outcome lets a task run. Throws only what the user's predicate throws, or FST_BGT_INVALID_TASK_OPTION. */
export function runsOn (runOn: RunOn, outcome: Outcome, beforeError: boolean): boolean {
  switch (runOn) {
    case 'success': return !beforeError
    case 'failure': return outcome.failed
    case 'always': return true
    default: {
      const runs: unknown = runOn(outcome)
      if (!isThenable(runs)) return Boolean(runs)
      // An async predicate: a promise is always truthy. Its rejection must not end the process.
      runs.then(undefined, () => {})
      throw new FST_BGT_INVALID_TASK_OPTION('runOn', 'a predicate that is not async', received(runs))
    }
  }
}

/**
 * Asks the option `outcome` whether a reply counts as a failure. Throws what the option throws.
 * @throws FST_BGT_INVALID_OPTION for an invalid answer
 */
export function isFailure (ask: NonNullable<BackgroundTasksOptions['outcome']>, request: FastifyRequest, reply: FastifyReply): boolean {
  const answer: unknown = ask(request, reply)
  if (answer === 'failure') return true
  if (answer === 'success' || answer === undefined) return false
  // The rejection of an async function must not end the process.
  if (isThenable(answer)) answer.then(undefined, () => {})
  throw new FST_BGT_INVALID_OPTION('outcome', "a function that returns 'success', 'failure' or undefined", received(answer))
}
