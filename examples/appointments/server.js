// Appointments: an API with state, and a page that uses it.
//
// State lives in the process. A store that outlives it is a database's job.

import { setTimeout as pause } from 'node:timers/promises'

import express from 'express'

const release = '1'
const app = express()
const appointments = new Map()
let next = 1

app.use(express.json())
app.use(express.static('public', { extensions: ['html'] }))

app.get('/api/health', (_request, response) => {
  response.json({ app: 'appointments', release, ok: true })
})

app.get('/api/appointments', (_request, response) => {
  response.json({ app: 'appointments', release, items: [...appointments.values()] })
})

app.post('/api/appointments', (request, response) => {
  const { patient, at } = request.body ?? {}
  if (typeof patient !== 'string' || !patient.trim() || typeof at !== 'string') {
    response.status(422).json({ app: 'appointments', error: 'patient and at are needed' })
    return
  }
  const appointment = { id: next++, patient: patient.trim(), at }
  appointments.set(appointment.id, appointment)
  response.status(201).json({ app: 'appointments', release, ...appointment })
})

app.delete('/api/appointments/:id', (request, response) => {
  response.status(appointments.delete(Number(request.params.id)) ? 204 : 404).end()
})

// A report takes a while to add up, as reports do.
app.get('/api/report', async (_request, response) => {
  await pause(15)
  response.json({ app: 'appointments', release, count: appointments.size })
})

const port = Number(process.env.PORT ?? 3000)
app.listen(port, '0.0.0.0', () => console.log(`appointments ${release} listens on ${port}`))
