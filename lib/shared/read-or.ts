/** Reads something of a user's value; `otherwise` if a getter or a proxy of the user's throws. */
export function readOr<T> (read: () => T, otherwise: T): T {
  try {
    return read()
  } catch {
    return otherwise
  }
}
