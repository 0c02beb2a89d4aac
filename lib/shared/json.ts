/** The most characters of JSON that a payload, a result or a progress may have: every backend stores as many. */
export const MAX_JSON_CHARS = 2 ** 24

/**
 * The JSON of a result or a progress; `null` for a value that JSON leaves out, such as `undefined`.
 * @throws TypeError for a value that JSON cannot express, such as a circle; RangeError for one above {@link MAX_JSON_CHARS}
 */
export function toJson (value: unknown): string | null {
  const json = JSON.stringify(value) ?? null
  if (json !== null && json.length > MAX_JSON_CHARS) throw new RangeError(`${json.length} characters of JSON are more than ${MAX_JSON_CHARS}`)
  return json
}
