import { FST_BGT_UNBOUND } from '../shared/errors'

/** @throws FST_BGT_UNBOUND for the `this` of a method that was taken from its collector */
export function assertBound (collector: unknown): void {
  if (collector === undefined) throw new FST_BGT_UNBOUND()
}
