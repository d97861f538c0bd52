/**
 * What this browser keeps for one model: a single record, written in a single transaction. IndexedDB makes a transaction
 * whole or not at all, so that a crash in the middle of a save leaves the record before it.
 *
 * @typedef {object} Kept
 * @property {string} identity  of the bundle, the key
 * @property {Uint8Array} weights  a safetensors file
 * @property {import("./lesson.mjs").Example[]} examples
 * @property {Record<string, number>[]} losses  one a step
 */

const DATABASE = "nagedge";
const STORE = "personal";

/** @returns {Promise<IDBDatabase>} */
function open() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "identity" });
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    request.onblocked = () => reject(new Error("another tab holds an older version of the database"));
  });
}

/** @template T @param {IDBTransactionMode} mode @param {(store: IDBObjectStore) => IDBRequest<T>} work @returns {Promise<T>} */
async function transact(mode, work) {
  const database = await open();
  try {
    return await new Promise((resolve, reject) => {
      // strict: the promise is kept only once the system says that the data is on the disk
      const transaction = database.transaction(STORE, mode, { durability: "strict" });
      const request = work(transaction.objectStore(STORE));
      transaction.oncomplete = () => resolve(request.result);
      transaction.onerror = () => reject(transaction.error);
      transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

/** @param {string} identity @returns {Promise<Kept|undefined>} */
export const load = (identity) => transact("readonly", (store) => store.get(identity));

/** @param {Kept} kept */
export const save = (kept) => transact("readwrite", (store) => store.put(kept));

/** @param {string} identity */
export const forget = (identity) => transact("readwrite", (store) => store.delete(identity));
