// Zero's `Database` on MongoDB: what handleMutateRequest needs. Nothing in here is of this application.
//
// One transaction holds the application's own writes, the client's lastMutationID and, for a refused mutation, its
// result instead of the writes. zmsd reads the two collections and sends all of it to zero-cache in one transaction:
//
//   clients    {shard: "zero_0", clientGroupID, clientID, lastMutationID}
//   mutations  {shard: "zero_0", clientGroupID, clientID, mutationID, result}

export class MongoDatabase {
  constructor(client, {clients = 'zeroClients', mutations = 'zeroMutations'} = {}) {
    this.client = client;
    this.db = client.db();
    this.clients = this.db.collection(clients);
    this.mutations = this.db.collection(mutations);
  }

  // Once, at start. The mutations write in transactions, which should not have to create a collection.
  async prepare() {
    await this.clients.createIndex({shard: 1, clientGroupID: 1, clientID: 1}, {unique: true});
    await this.mutations.createIndex({shard: 1, clientGroupID: 1, clientID: 1, mutationID: 1}, {unique: true});
  }

  // `callback(tx, hooks)` may run more than once: MongoDB asks for that when two transactions collide.
  transaction(callback, {upstreamSchema: shard, clientGroupID, clientID}) {
    return this.client.withSession(session => {
      const hooks = {
        updateClientMutationID: () =>
          this.clients.findOneAndUpdate(
            {shard, clientGroupID, clientID},
            {$inc: {lastMutationID: 1}},
            {upsert: true, returnDocument: 'after', session},
          ),

        writeMutationResult: ({id, result}) =>
          this.mutations.insertOne({shard, clientGroupID, clientID: id.clientID, mutationID: id.id, result}, {session}),

        // Zero's own mutation _zero_cleanupResults: the client has seen these results.
        deleteMutationResults: args =>
          this.mutations.deleteMany(
            args.type === 'bulk'
              ? {shard, clientGroupID: args.clientGroupID, clientID: {$in: args.clientIDs}}
              : {
                  shard,
                  clientGroupID: args.clientGroupID,
                  clientID: args.clientID,
                  mutationID: {$lte: args.upToMutationID},
                },
            {session},
          ),
      };
      return session.withTransaction(() => callback({db: this.db, session}, hooks), {
        readConcern: {level: 'snapshot'},
        writeConcern: {w: 'majority'},
      });
    });
  }
}
