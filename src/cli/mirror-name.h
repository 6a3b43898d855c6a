#ifndef MIRROR_NAME_H
#define MIRROR_NAME_H

/* File names from entry names, and back (mirror-name.c; dovetail-mirror(1) has the rules for people). Pure functions. */

#include <stdbool.h>
#include <stddef.h>

/* Names of both kinds are relative: paths to the folder, entries to the subtree; "" is the subtree's own entry. */
#define MIRROR_ENTRY_MAX 1024
#define MIRROR_FILE_MAX 255
/* A path may be longer than its entry by two octets for each component. */
#define MIRROR_PATH_MAX (3 * MIRROR_ENTRY_MAX)

/* Our own folder in the mirrored one. */
#define MIRROR_OWN ".dovetail"
/* The file in a folder that has the value of the entry with the folder's name. */
#define MIRROR_INSIDE "%="

/* false: the entry would be longer than max octets (or the path is not relative and plain: then it is a bug or an attack). */
bool mirror_name_entry(const char *path, size_t max, char entry_r[MIRROR_ENTRY_MAX + 1]);
/* The path of the entry if there is no folder of that name. false: a file's name would be longer than 255 octets. */
bool mirror_name_path(const char *entry, char path_r[MIRROR_PATH_MAX + 1]);
/* What a conflicting version of the file is called: its name, ".conflict-" and id, cut to fit; number > 1 is appended. */
bool mirror_name_conflict(const char *path, const char *id, unsigned int number, char path_r[MIRROR_PATH_MAX + 1]);
/* The part behind the last slash. */
const char *mirror_name_leaf(const char *path);

#endif
