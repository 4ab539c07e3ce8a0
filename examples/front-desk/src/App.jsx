import { useState } from 'react'

import { headline } from './headline.js'

const patients = [
  { id: 1, name: 'R. Okafor', at: '09:00' },
  { id: 2, name: 'L. Lindqvist', at: '09:20' },
  { id: 3, name: 'M. Haddad', at: '09:40' },
]

export function App() {
  const [arrived, setArrived] = useState(() => new Set())
  const toggle = (id) =>
    setArrived((before) => {
      const after = new Set(before)
      if (!after.delete(id)) after.add(id)
      return after
    })
  return (
    <main>
      <h1>{headline}</h1>
      <p>
        {arrived.size} of {patients.length} patients have arrived.
      </p>
      <ul>
        {patients.map(({ id, name, at }) => (
          <li key={id}>
            <span>
              <strong>{at}</strong> {name}
            </span>
            <button type="button" aria-pressed={arrived.has(id)} onClick={() => toggle(id)}>
              {arrived.has(id) ? 'Arrived' : 'Check in'}
            </button>
          </li>
        ))}
      </ul>
      <footer>
        <a href="/about">About</a>
      </footer>
    </main>
  )
}
