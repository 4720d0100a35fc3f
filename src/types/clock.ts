/** Where the library takes the time from; injected, so that tests and simulations hold it in their hands. */
export interface Clock {
  now(): Date;
}
