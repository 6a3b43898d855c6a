/* The floor that a client's first sync cannot go below, the transfer aside: SQLite takes as many new rows, in one durable transaction, into a table
   with the columns and indexes that entries have in a replica.

   Started by the bench package: "bench-sqlite FILE ROWS" makes FILE and prints the seconds that the transaction took. */

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define VALUE_SIZE 100

static const char setup_sql[] =
"PRAGMA journal_mode = WAL;"
"PRAGMA synchronous = FULL;"
"PRAGMA cache_size = -2000;"
"CREATE TABLE entry(id INTEGER PRIMARY KEY AUTOINCREMENT, mailbox TEXT NOT NULL, wire TEXT NOT NULL, name TEXT NOT NULL,"
" hidden INTEGER NOT NULL, kind INTEGER NOT NULL, modseq INTEGER NOT NULL, write_id INTEGER, size INTEGER NOT NULL, value BLOB,"
" UNIQUE(mailbox, wire));"
"CREATE INDEX entry_name ON entry(mailbox, name);";

static sqlite3 *db;

static void check(int ret)
{
	if (ret == SQLITE_OK || ret == SQLITE_DONE)
		return;
	fprintf(stderr, "bench-sqlite: %s\n", sqlite3_errmsg(db));
	exit(1);
}

static double now(void)
{
	struct timespec ts;

	(void)clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

int main(int argc, char *argv[])
{
	char name[64], value[VALUE_SIZE + 1];
	sqlite3_stmt *stmt;
	double start;
	int i;

	if (argc != 3) {
		fprintf(stderr, "usage: bench-sqlite FILE ROWS\n");
		return 1;
	}
	(void)snprintf(value, sizeof(value), "%0*d", VALUE_SIZE, 0);
	check(sqlite3_open(argv[1], &db));
	check(sqlite3_exec(db, setup_sql, NULL, NULL, NULL));
	start = now();
	check(sqlite3_exec(db, "BEGIN IMMEDIATE", NULL, NULL, NULL));
	check(sqlite3_prepare_v2(db, "INSERT INTO entry(mailbox, wire, name, hidden, kind, modseq, size, value)"
				 " VALUES('', ?1, ?1, 0, 0, 1, ?2, ?3)", -1, &stmt, NULL));
	for (i = 0; i < atoi(argv[2]); i++) {
		(void)snprintf(name, sizeof(name), "/private/vendor/bench/e%06d", i);
		check(sqlite3_bind_text(stmt, 1, name, -1, SQLITE_STATIC));
		check(sqlite3_bind_int(stmt, 2, VALUE_SIZE));
		check(sqlite3_bind_blob(stmt, 3, value, VALUE_SIZE, SQLITE_STATIC));
		check(sqlite3_step(stmt));
		check(sqlite3_reset(stmt));
	}
	check(sqlite3_finalize(stmt));
	check(sqlite3_exec(db, "COMMIT", NULL, NULL, NULL));
	printf("%.6f\n", now() - start);
	check(sqlite3_close(db));
	return 0;
}
