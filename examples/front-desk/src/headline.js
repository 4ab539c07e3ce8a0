export const headline = 'Good morning'
