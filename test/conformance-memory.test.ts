import t from 'tap'
import { conformance } from './support/conformance'

conformance(t, { options: async () => ({}), durable: false })
