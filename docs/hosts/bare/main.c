#include "kws.h"

int main(void);

/* 0 where compiler, flags and silicon compute every byte of the network right. */
int main(void)
{
    return kws_selftest();
}
