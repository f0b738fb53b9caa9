"""The schema and mappings of the document that the project was made from, exactly as they are printed there."""

SCHEMA = """{
"message": {
"tableName": "message",
"columns": {
"id": { "type": "string" },
"content": { "type": "string" },
"createdAt": { "type": "number" }
},
"primaryKey": ["id"]
}
}"""

MAPPINGS = """{
"message": {
"collection": "messages",
"fields": {
"id": "_id",
"content": "content",
"userId": "author.id",
"createdAt": "timestamp"
}
}
}"""
