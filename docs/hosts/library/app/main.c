#include "kws.h"

/* 0 where compiler, flags and silicon compute every byte of the network right. */
int main(void)
{
    return kws_selftest();
}
