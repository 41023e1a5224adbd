/* Preloaded into a gateway: keeps aside what a loss of power could not take, which is the contents of files as of their last sync, and the names in
   their directory as of its. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Threads sync at the same time. */
static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;

static void put(const char *name, const char *bytes, size_t count) {
    char fresh[PATH_MAX], path[PATH_MAX];
    snprintf(fresh, sizeof fresh, "%s/fresh.%s", getenv("POWER_KEPT"), name);
    snprintf(path, sizeof path, "%s/%s", getenv("POWER_KEPT"), name);
    int out = open(fresh, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (out < 0 || write(out, bytes, count) != (ssize_t)count) abort();
    close(out);
    if (rename(fresh, path) != 0) abort();
}

static void put_names(const char *path) {
    DIR *directory = opendir(path);
    char names[65536];
    size_t length = 0;
    struct dirent *entry;
    while (directory && (entry = readdir(directory)))
        if (entry->d_type == DT_REG)
            length += snprintf(names + length, sizeof names - length, "%lu %s\n",
                               (unsigned long)entry->d_ino, entry->d_name);
    if (directory) closedir(directory);
    put("names", names, length);
}

/* By its own descriptor: closing another would let go of the locks that the program holds on it. */
static void put_file(int descriptor, const struct stat *found) {
    char *bytes = malloc(found->st_size + 1), name[32];
    ssize_t count = pread(descriptor, bytes, found->st_size, 0);
    snprintf(name, sizeof name, "%lu", (unsigned long)found->st_ino);
    if (count >= 0) put(name, bytes, count);
    free(bytes);
}

static int synced(int descriptor, int result) {
    const char *state = getenv("POWER_STATE");
    char link[64], path[PATH_MAX];
    struct stat found;
    if (result != 0 || !state) return result;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0 || fstat(descriptor, &found) != 0) return result;
    path[length] = 0;
    pthread_mutex_lock(&one);
    if (strcmp(path, state) == 0)
        put_names(path);
    else if (strncmp(path, state, strlen(state)) == 0)
        put_file(descriptor, &found);
    pthread_mutex_unlock(&one);
    return result;
}

int fsync(int descriptor) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return synced(descriptor, real(descriptor));
}

int fdatasync(int descriptor) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return synced(descriptor, real(descriptor));
}
