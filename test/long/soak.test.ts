import { test } from 'tap'
import * as plugin from '../../index'

const { soak } = require('../../bench/soak.js') as {
  soak (plugin: object, options: { requests: number, rounds: number, connections: number }): Promise<{ problems: string[], growth: number }>
}

// The short form of `npm run soak`.

test('thousands of tasks of every kind, through real HTTP, are accounted for and leave nothing on the heap', async t => {
  const { problems, growth } = await soak(plugin, { requests: 1_600, rounds: 8, connections: 16 })
  t.same(problems, [])
  t.pass(`the heap grew by ${growth} bytes`)
})
