import { build } from './app'

async function main (): Promise<void> {
  const app = await build({
    broker: process.env.BROKER_URL ?? 'amqp://guest:guest@127.0.0.1:5672',
    results: process.env.RESULT_BACKEND ?? 'redis://127.0.0.1:6379',
    logger: true
  })
  for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => app.close())
  await app.listen({ port: Number(process.env.PORT ?? 3000) })
}

main()
