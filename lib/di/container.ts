/** The members of an awilix container that are used here. */
export interface Container {
  register (resolvers: Record<string, Resolver>): unknown
  createScope (): Container
  dispose (): Promise<void>
  cache: Map<string | symbol, unknown>
}

/** The fields that awilix reads of a resolver. Made without `asValue` or `asFunction`, which this package does not load. */
export interface Resolver {
  /** A strict container refuses a singleton that depends on a scoped registration. */
  lifetime: 'SCOPED' | 'SINGLETON'
  resolve (): unknown
}
