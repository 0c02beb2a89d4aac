'use strict'

const { PATH } = require('./apps')
const { start } = require('./child')
const { summarize } = require('./statistics')

/*
 * A row over HTTP. Several server processes, one after the other, because what the compiler makes of the code differs
 * more from process to process than from slice to slice; in each, the sides take turns as A B B A, and every second
 * process has them the other way round.
 */

const CONNECTIONS = 32

/** @returns the ratios of neighbouring slices, and the microseconds of CPU time per request on either side */
async function measure (row, { build, against, processes, pairs, milliseconds, warmUp }) {
  const ratios = []
  const cpu = { plugin: [], baseline: [] }
  const load = start('load.js')
  for (let i = 0; i < processes; i++) {
    const order = i % 2 === 0 ? ['baseline', 'plugin'] : ['plugin', 'baseline']
    const server = start('server.js', ['--expose-gc'])
    const ports = await server.call('listen', { row, build, against, order })
    for (const side of order) await load.call('open', { port: ports[side], count: CONNECTIONS })

    const slice = async (side, milliseconds) => {
      await server.call('begin', { side })
      const { requests } = await load.call('run', { port: ports[side], method: 'GET', path: PATH, milliseconds })
      return server.call('end', { requests })
    }

    for (const side of [...order, ...order]) await slice(side, warmUp / 2)
    for (let pair = 0; pair < pairs; pair++) {
      const [first, second] = pair % 2 === 0 ? order : order.toReversed()
      const sample = { [first]: await slice(first, milliseconds), [second]: await slice(second, milliseconds) }
      ratios.push(sample.plugin / sample.baseline)
      for (const side of order) cpu[side].push(sample[side])
    }
    for (const side of order) await load.call('close', { port: ports[side] })
    await server.stop()
  }
  await load.stop()
  return { ratios, cpu: { plugin: summarize(cpu.plugin), baseline: summarize(cpu.baseline) } }
}

module.exports = { measure }
